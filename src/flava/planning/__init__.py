"""What a run needs, told before it is started: memory, operations, messages, days."""
