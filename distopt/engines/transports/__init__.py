"""What carries the messages of workers."""
