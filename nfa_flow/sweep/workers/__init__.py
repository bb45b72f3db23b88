"""What runs the engines: threads of this process, or an executor."""
