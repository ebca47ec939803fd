"""What people look at: pictures now, the report and comparisons on top of them."""
