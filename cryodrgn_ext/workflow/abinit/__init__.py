"""Steps of finding poses from nothing, between the job and the algorithms."""
