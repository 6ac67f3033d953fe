"""Who owns a task, how long code of the application may take, and what a signal does."""
