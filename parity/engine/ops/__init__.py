"""Operations: each a portable reference that is its specification, and faster rewrites of it."""
