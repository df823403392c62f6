package space

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// maxMachine bounds the states that texts are looked for in.
const maxMachine = 4000

// wild stands for any text in a pattern that is read.
const wild = -1

// matches returns the shortest text of each combination of constants that it is and
// patterns that it matches, and whether these are all: it walks the machine that reads a
// text for all of them at once.
func matches(consts []string, likes []types.Pattern) (found []string, all bool) {
	var list [][]rune
	for _, c := range consts {
		list = append(list, []rune(c))
	}
	for _, p := range likes {
		list = append(list, runes(p))
	}
	letters := []rune{}
	for _, p := range list {
		for _, r := range p {
			if r != wild && !slices.Contains(letters, r) {
				letters = append(letters, r)
			}
		}
	}
	for _, r := range "xyzabcdefghijklmnopqrstuvw0123456789-_" { // one that no pattern has
		if !slices.Contains(letters, r) {
			letters = append([]rune{r}, letters...)
			break
		}
	}
	type state struct {
		at   [][]bool // of each pattern: the places that reading may have come to
		text string
	}
	start := state{}
	for _, p := range list {
		at := make([]bool, len(p)+1)
		reach(p, at, 0)
		start.at = append(start.at, at)
	}
	seen, kinds := map[string]bool{key(start.at): true}, make(map[string]bool)
	for queue := []state{start}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		kind := make([]byte, len(list))
		for i, at := range s.at {
			if at[len(at)-1] {
				kind[i] = 1
			}
		}
		if !kinds[string(kind)] {
			kinds[string(kind)] = true
			found = append(found, s.text)
		}
		for _, r := range letters {
			next := state{text: s.text + string(r)}
			for i, p := range list {
				next.at = append(next.at, step(p, s.at[i], r))
			}
			k := key(next.at)
			if seen[k] {
				continue
			}
			if len(seen) == maxMachine {
				return found, false
			}
			seen[k] = true
			queue = append(queue, next)
		}
	}
	return found, true
}

func reach(p []rune, at []bool, i int) {
	at[i] = true
	if i < len(p) && p[i] == wild {
		reach(p, at, i+1)
	}
}

func step(p []rune, at []bool, r rune) []bool {
	out := make([]bool, len(at))
	for i, c := range p {
		switch {
		case !at[i]:
		case c == wild:
			reach(p, out, i)
		case c == r:
			reach(p, out, i+1)
		}
	}
	return out
}

func key(list [][]bool) string {
	var b strings.Builder
	for _, at := range list {
		for _, x := range at {
			if x {
				b.WriteByte('1')
			} else {
				b.WriteByte('0')
			}
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// runes returns a pattern, which shows what it is made of only in its JSON form.
func runes(p types.Pattern) []rune {
	b, err := p.MarshalJSON()
	var parts []any
	if err == nil {
		err = json.Unmarshal(b, &parts)
	}
	if err != nil {
		return []rune{wild}
	}
	var out []rune
	for _, x := range parts {
		switch t := x.(type) {
		case string:
			out = append(out, wild)
		case map[string]any:
			if s, ok := t["Literal"].(string); ok {
				out = append(out, []rune(s)...)
			}
		}
	}
	return out
}
