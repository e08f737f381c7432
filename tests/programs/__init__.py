"""Ordinary programs at work on the filesystem under test."""
