"""The command line: `main` has options and exit codes, a module each has the commands."""
