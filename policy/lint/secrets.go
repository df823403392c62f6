package lint

import (
	"math"
	"regexp"
	"strings"
)

// What secrets look like.
var (
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
	inURL      = regexp.MustCompile(`[a-z][a-z0-9+.-]*://[^/\s:@"']*:[^/\s@"']+@`)
	token      = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`)
	accessKey  = regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{16}\b`)
	verifier   = regexp.MustCompile(`\$(argon2id?|pbkdf2-sha[0-9]+|2[aby]|6|5|y)\$\S{16,}`)
	within     = regexp.MustCompile(`[A-Za-z][0-9]+[A-Za-z]`) // names have digits at their ends
	random     = regexp.MustCompile(`[A-Za-z0-9+/_-]{32,}={0,2}`)
)

// randomness is the entropy of a text's characters, in bits for each, from which a long
// text is no word and no path.
const randomness = 4.2

// secrets looks for what does not belong into documents, which are signed, sent and shown.
// What is found is not repeated.
func (x *linting) secrets() {
	for at, line := range x.b.Lines() {
		what, start := secretIn(line)
		if what == "" {
			continue
		}
		at.Column = start + 1
		x.find(SecretInDocument, Warning, at, "", "put it into a file and name that in spec.secrets; where it was real, change it", "this looks like %s", what)
		x.r.Findings[len(x.r.Findings)-1].Text = ""
	}
}

// mayHold reports whether a line has what all secrets have: few do.
func mayHold(line string) bool {
	run := 0
	for i := range len(line) {
		switch c := line[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '-', c == '+', c == '_', c == '/', c == '$', c == '=':
			if run++; run >= 16 {
				return true
			}
		default:
			run = 0
		}
	}
	return strings.Contains(line, "://") || strings.Contains(line, "-----BEGIN")
}

func secretIn(line string) (what string, at int) {
	if !mayHold(line) {
		return "", 0
	}
	for _, k := range []struct {
		form *regexp.Regexp
		what string
	}{{privateKey, "a private key"}, {inURL, "a URL with a password"}, {token, "a token"}, {accessKey, "an access key"}, {verifier, "the verifier of a password"}} {
		if m := k.form.FindStringIndex(line); m != nil {
			return k.what, m[0]
		}
	}
	for _, m := range random.FindAllStringIndex(line, -1) {
		s := line[m[0]:m[1]]
		if within.MatchString(s) && strings.ToLower(s) != s && strings.ToUpper(s) != s && entropy(s) >= randomness {
			return "a secret: a long text without any pattern", m[0]
		}
	}
	return "", 0
}

func entropy(s string) float64 {
	var n [256]int
	for i := range len(s) {
		n[s[i]]++
	}
	e := 0.0
	for _, c := range n {
		if c > 0 {
			p := float64(c) / float64(len(s))
			e -= p * math.Log2(p)
		}
	}
	return e
}
