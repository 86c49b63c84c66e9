"""What the user asked for: configuration files and the jobs that a command line makes of them."""
