"""What all commands share: signals, progress, the options of a server, how a failure is shown."""
