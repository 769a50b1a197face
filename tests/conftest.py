"""What holds for every test."""

import signal

# Started in the background of a shell, this process ignores Ctrl-C, and so would every program
# that a test starts to see what Ctrl-C does to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
