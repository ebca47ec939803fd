"""Recipes of published tables, and of runs of ours, written from one table of settings."""
