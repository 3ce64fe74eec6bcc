"""Questions of a kernel: conversations, replays, budgets. Without IPython and without output."""
