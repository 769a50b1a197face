"""What this machine is: cards, memory, disk, Docker, addresses; and its file of settings."""
