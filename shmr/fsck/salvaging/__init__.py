"""A catalog out of drives that nobody vouches for: from journal, snapshot, footers."""
