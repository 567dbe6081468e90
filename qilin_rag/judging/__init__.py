"""Ask an LLM about results: judges of answers, and the safety filter of notes."""
