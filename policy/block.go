package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"lorica.dev/lorica/api"
)

// A spot is a line and a column of a text, counted from one.
type spot struct{ line, col int }

// A block is a text of another language inside a document.
type block struct {
	api.Text
	src   *source
	lines []string
}

func newBlock(src *source, t api.Text) *block {
	return &block{t, src, strings.Split(t.Value, "\n")}
}

// pos maps a place in the block to the document. Where the block is not written
// out line by line (a quoted or folded scalar), it is the scalar.
func (b *block) pos(at spot) api.Pos {
	if at.line >= 1 && at.line <= len(b.lines) {
		line := b.Pos.Line + at.line - 1
		if w := strings.TrimRight(b.src.fullLine(line), "\r"); strings.HasSuffix(w, b.lines[at.line-1]) {
			return api.Pos{File: b.Pos.File, Line: line, Column: b.Pos.Column + at.col - 1}
		}
	}
	return b.Pos
}

var cedarAt = regexp.MustCompile(`^(?:parser error: )?(?:parse error at )?(?:<input>:)?(\d+):(\d+):? ?(.*)$`)

// cedarProblem takes the position out of an error of cedar-go.
func cedarProblem(err error) (spot, string) {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	m := cedarAt.FindStringSubmatch(text)
	if m == nil {
		return spot{1, 1}, clip(strings.TrimPrefix(text, "parser error: "))
	}
	line, _ := strconv.Atoi(m[1])
	col, _ := strconv.Atoi(m[2])
	return spot{max(1, line), max(1, col)}, clip(strings.TrimPrefix(m[3], `"": `))
}

var unexpected = regexp.MustCompile(`^".*": (?:exact got (.*) want (.*)|(unexpected [a-z ]+): (.*))$`)

// offender finds the token that an error is about: cedar-go names the one after
// it. A text that ends too early is wrong at its end.
func offender(text string, at spot, msg string) (spot, string) {
	m := unexpected.FindStringSubmatch(msg)
	if m == nil {
		return at, msg
	}
	got := m[1] + m[4]
	if m[2] != "" {
		msg = fmt.Sprintf("found %q where %q is expected", m[1], m[2])
	} else {
		msg = m[3] + " " + strconv.Quote(got)
	}
	end := 0
	for line := 1; line < at.line && end < len(text); line++ {
		i := strings.IndexByte(text[end:], '\n')
		if i < 0 {
			break
		}
		end += i + 1
	}
	for col := 1; col < at.col && end < len(text); col++ {
		_, size := utf8.DecodeRuneInString(text[end:])
		end += size
	}
	i := strings.LastIndex(text[:end], got)
	if got == "" {
		i, msg = len(strings.TrimRight(text, " \t\r\n")), strings.Replace(msg, `found ""`, "the text ends", 1)
	}
	if i < 0 {
		return at, msg
	}
	return spotOf(text, i), msg
}

// spotOf returns the place of byte i of a text.
func spotOf(text string, i int) spot {
	start := strings.LastIndexByte(text[:i], '\n') + 1
	return spot{1 + strings.Count(text[:i], "\n"), 1 + utf8.RuneCountInString(text[start:i])}
}

var inQuotes = regexp.MustCompile("[`\"]([^`\"]+)[`\"]")

// quoted returns the first quoted word of a message.
func quoted(msg string) string {
	if m := inQuotes.FindStringSubmatch(msg); m != nil {
		return m[1]
	}
	return ""
}

// find is locate with the beginning of the text for words that are not there.
func find(text, word string) spot {
	at, ok := locate(text, word)
	if !ok {
		return spot{1, 1}
	}
	return at
}

// locate returns the place of the first occurrence of a whole word.
func locate(text, word string) (spot, bool) {
	if word == "" {
		return spot{}, false
	}
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return spot{}, false
		}
		i += from
		if !(i > 0 && wordByte(text[i-1]) && wordByte(word[0])) && !(i+len(word) < len(text) && wordByte(text[i+len(word)]) && wordByte(word[len(word)-1])) {
			return spotOf(text, i), true
		}
		from = i + 1
	}
}

func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
