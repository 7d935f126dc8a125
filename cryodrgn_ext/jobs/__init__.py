"""One function per job: settings in, result directory out; no suite is known here."""
