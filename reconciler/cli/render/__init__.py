"""How results look: to people as text, to programs as JSON. Pure: values in, text out."""
