"""z is what a recurrent network remembers of a trial."""
