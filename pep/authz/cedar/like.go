package cedar

// like matches s against a pattern in which "*" stands for any bytes and "\"
// makes the next byte stand for itself. It keeps one point to return to, the
// last star, which suffices because an earlier star can match no less.
func like(s, pattern []byte) bool {
	i, j := 0, 0
	star, from := -1, 0
	for i < len(s) {
		if j < len(pattern) && pattern[j] == '*' {
			j++
			star, from = j, i
			continue
		}
		if c, n := literal(pattern[j:]); n > 0 && c == s[i] {
			i, j = i+1, j+n
			continue
		}
		if star < 0 {
			return false
		}
		from++
		i, j = from, star
	}
	for j < len(pattern) && pattern[j] == '*' {
		j++
	}
	return j == len(pattern)
}

// literal returns the byte that p starts with, and its length in p.
func literal(p []byte) (byte, int) {
	switch {
	case len(p) == 0:
		return 0, 0
	case p[0] == '\\' && len(p) > 1:
		return p[1], 2
	}
	return p[0], 1
}
