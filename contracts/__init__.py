"""Ground floor: the messages, events and errors that every process of Variet agrees on."""
