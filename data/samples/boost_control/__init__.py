"""Reference model of the boost controller."""
