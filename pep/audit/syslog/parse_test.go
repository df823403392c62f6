package syslog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A parsed message, as RFC 5424 alone has it: this reader shares nothing with the writer.
type parsed struct {
	facility, severity  int
	at                  time.Time
	host, app, proc, id string
	elements            []element
	text                string
	bom                 bool
}

type element struct {
	name   string
	params [][2]string
}

func (p *parsed) param(element, name string) (all []string) {
	for _, e := range p.elements {
		if e.name != element {
			continue
		}
		for _, x := range e.params {
			if x[0] == name {
				all = append(all, x[1])
			}
		}
	}
	return all
}

// readFrame reads one SYSLOG-FRAME of RFC 5425, section 4.3: MSG-LEN is a number without
// leading zeros.
func readFrame(r *bufio.Reader) (string, error) {
	n := 0
	for i := 0; ; i++ {
		c, err := r.ReadByte()
		if err != nil {
			if i > 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if c == ' ' && i > 0 {
			break
		}
		if c < '0' || c > '9' || i == 0 && c == '0' || i > 8 {
			return "", fmt.Errorf("MSG-LEN has %q", c)
		}
		n = n*10 + int(c-'0')
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// parse reads SYSLOG-MSG by the ABNF of RFC 5424, section 6.
func parse(s string) (*parsed, error) {
	p := &parsed{}
	word := func(limit int) (string, error) {
		w, rest, ok := strings.Cut(s, " ")
		if !ok || w == "" || len(w) > limit {
			return "", fmt.Errorf("a field of %d characters before %q", len(w), rest)
		}
		for _, c := range []byte(w) {
			if c < 33 || c > 126 {
				return "", fmt.Errorf("%q is not PRINTUSASCII", w)
			}
		}
		s = rest
		return w, nil
	}
	head, err := word(8)
	if err != nil {
		return nil, err
	}
	pri, ok := strings.CutPrefix(head, "<")
	pri, version, ok2 := strings.Cut(pri, ">")
	v, err := strconv.Atoi(pri)
	if !ok || !ok2 || err != nil || v > 191 || strconv.Itoa(v) != pri || version != "1" {
		return nil, fmt.Errorf("header %q", head)
	}
	p.facility, p.severity = v/8, v%8
	at, err := word(40)
	if err != nil {
		return nil, err
	}
	if p.at, err = time.Parse("2006-01-02T15:04:05.999999Z", at); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		to    *string
		limit int
	}{{&p.host, 255}, {&p.app, 48}, {&p.proc, 128}, {&p.id, 32}} {
		if *x.to, err = word(x.limit); err != nil {
			return nil, err
		}
	}
	if s, err = p.structured(s); err != nil {
		return nil, err
	}
	if s == "" {
		return p, nil
	}
	text, ok := strings.CutPrefix(s, " ")
	if !ok {
		return nil, fmt.Errorf("after the structured data: %q", s)
	}
	p.text, p.bom = strings.CutPrefix(text, "\ufeff")
	if p.bom && !utf8.ValidString(p.text) {
		return nil, errors.New("a BOM, and no UTF-8")
	}
	return p, nil
}

func (p *parsed) structured(s string) (string, error) {
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return rest, nil
	}
	name := func(end string) (string, error) {
		at := strings.IndexAny(s, end)
		if at < 1 || at > 32 {
			return "", fmt.Errorf("an SD-NAME of %d characters", at)
		}
		n := s[:at]
		for _, c := range []byte(n) {
			if c < 33 || c > 126 || c == '=' || c == ']' || c == '"' {
				return "", fmt.Errorf("SD-NAME %q", n)
			}
		}
		s = s[at:]
		return n, nil
	}
	for strings.HasPrefix(s, "[") {
		s = s[1:]
		id, err := name(" ]")
		if err != nil {
			return "", err
		}
		for _, other := range p.elements {
			if other.name == id {
				return "", fmt.Errorf("SD-ID %q is there twice", id)
			}
		}
		e := element{name: id}
		for strings.HasPrefix(s, " ") {
			s = s[1:]
			n, err := name("=")
			if err != nil {
				return "", err
			}
			if !strings.HasPrefix(s, `="`) {
				return "", fmt.Errorf("after the name %s: %q", n, s)
			}
			s = s[2:]
			var b strings.Builder
			for {
				if s == "" || s[0] == ']' {
					return "", fmt.Errorf("the value of %s has no end", n)
				}
				c := s[0]
				if s = s[1:]; c == '"' {
					break
				}
				if c == '\\' && s != "" && strings.IndexByte(`"\]`, s[0]) >= 0 {
					c, s = s[0], s[1:]
				}
				b.WriteByte(c)
			}
			if !utf8.ValidString(b.String()) {
				return "", fmt.Errorf("the value of %s is not UTF-8", n)
			}
			e.params = append(e.params, [2]string{n, b.String()})
		}
		if !strings.HasPrefix(s, "]") {
			return "", fmt.Errorf("element %s does not end: %q", id, s)
		}
		s = s[1:]
		p.elements = append(p.elements, e)
	}
	if len(p.elements) == 0 {
		return "", errors.New("no structured data")
	}
	return s, nil
}
