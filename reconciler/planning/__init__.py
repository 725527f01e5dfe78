"""Planning is a function: desired, observed and last applied in, a plan out. Pure; no Trio, no clock, no file, no random."""
