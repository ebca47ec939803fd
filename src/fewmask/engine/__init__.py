"""The one training loop and what surrounds it; it never knows a method's name."""
