package cedar

import (
	"math"
	"time"
)

// parseDatetime reads a time as Cedar does (RFC 80 and RFC 110 of its project): a date, a
// date and time with or without milliseconds in UTC or with an offset; years of four
// digits, or of a sign and nine. It returns milliseconds since 1970.
func parseDatetime(s string) (int64, bool) {
	p := scanner{s: s, ok: true}
	year := 0
	switch {
	case p.one("+"):
		year = p.number(9, math.MaxInt)
	case p.one("-"):
		year = -p.number(9, math.MaxInt)
	default:
		year = p.number(4, math.MaxInt)
	}
	p.must("-")
	month := p.number(2, 12)
	p.must("-")
	d := p.number(2, 31)
	t := time.Date(year, time.Month(month), d, 0, 0, 0, 0, time.UTC)
	if _, m, x := t.Date(); !p.ok || int(m) != month || x != d {
		return 0, false
	}
	if p.s == "" {
		return t.UnixMilli(), true
	}
	p.must("T")
	h := p.number(2, 23)
	p.must(":")
	m := p.number(2, 59)
	p.must(":")
	sec, milli, offset := p.number(2, 59), 0, 0
	if p.one(".") {
		milli = p.number(3, 999)
	}
	if !p.one("Z") {
		sign := 1
		if !p.one("+") {
			p.must("-")
			sign = -1
		}
		offset = sign * (p.number(2, 23)*hour + p.number(2, 59)*minute)
	}
	// A sum in milliseconds would overflow for years that Cedar refuses.
	t = t.Add(time.Duration(h*hour+m*minute+sec*second+milli-offset) * time.Millisecond)
	n := t.UnixMilli()
	return n, p.ok && p.s == "" && time.UnixMilli(n).Equal(t)
}

// A scanner takes parts off a text while all is well.
type scanner struct {
	s  string
	ok bool
}

func (p *scanner) one(c string) bool {
	if p.s == "" || p.s[:1] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

func (p *scanner) must(c string) { p.ok = p.one(c) && p.ok }

// number takes so many digits.
func (p *scanner) number(digits, most int) (n int) {
	if len(p.s) < digits {
		p.ok = false
		return 0
	}
	for _, c := range []byte(p.s[:digits]) {
		if c < '0' || c > '9' {
			p.ok = false
			return 0
		}
		n = 10*n + int(c-'0')
	}
	p.s = p.s[digits:]
	p.ok = p.ok && n <= most
	return n
}

// parseDuration reads a duration as Cedar does: numbers of days, hours, minutes, seconds
// and milliseconds, those that there are in this order. It returns milliseconds.
func parseDuration(s string) (int64, bool) {
	if len(s) < 2 {
		return 0, false
	}
	sign := int64(1)
	if s[0] == '-' {
		sign, s = -1, s[1:]
	}
	units := []struct {
		name string
		is   int64
	}{{"d", day}, {"h", hour}, {"m", minute}, {"s", second}, {"ms", 1}}
	total := int64(0)
	for s != "" {
		i, n := 0, int64(0)
		for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
			digit := int64(s[i] - '0')
			if n > (math.MaxInt64-digit)/10 {
				return 0, false
			}
			n = 10*n + digit
		}
		width := 1
		if len(s) >= i+2 && s[i:i+2] == "ms" {
			width = 2
		}
		if i == 0 || len(s) < i+width {
			return 0, false
		}
		for len(units) > 0 && units[0].name != s[i:i+width] {
			units = units[1:]
		}
		if len(units) == 0 || n > math.MaxInt64/units[0].is || total > math.MaxInt64-n*units[0].is {
			return 0, false
		}
		total += n * units[0].is
		units, s = units[1:], s[i+width:]
	}
	return sign * total, true
}
