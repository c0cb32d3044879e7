"""Estimates without synthesis: resources, clock, energy; their terms, their data and their fit."""
