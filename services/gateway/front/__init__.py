"""The gateway's HTTP side: who may call, what is asked, and an engine's bytes on their way back."""
