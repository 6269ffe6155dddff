"""z is what is believed of a robot."""
