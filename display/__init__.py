"""What people see: progress while a command works, tables of what a checkpoint holds. The engine knows none of it."""
