"""Reading what people have, dividing it, and turning it into batches."""
