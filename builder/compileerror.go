package builder

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// position is how the compiler begins the line of an error.
var position = regexp.MustCompile(`^(?:\./)?([^\s:]+\.go):(\d+):(\d+): (.*)$`)

// explained says whose a failure of the go command is: a full disk's, or the user's.
func (b *build) explained(failed *goError) error {
	if line := fullDisk(failed.output); line != "" {
		return fmt.Errorf("builder: make room where %s is, and the Go caches: %w (%s)", b.tmp, syscall.ENOSPC, line)
	}
	return b.sourceError(failed)
}

// fullDisk returns the line in which the go command says that a disk is full, or "". What
// it says of a line of the user's may quote those words, there or in the indented lines
// below it.
func fullDisk(output string) string {
	for line := range strings.Lines(output) {
		text := strings.TrimSpace(line)
		if strings.Contains(text, syscall.ENOSPC.Error()) && line[0] != '\t' && !position.MatchString(text) {
			return text
		}
	}
	return ""
}

// sourceError turns what the compiler said into the first error in the terms of
// the user: in a file of theirs, or about the constructor they named.
func (b *build) sourceError(failed *goError) error {
	parts := b.plan.parts()
	e := &SourceError{Pos: b.blame(failed.output).pos, Output: b.translate(failed.output)}
	for line := range strings.Lines(failed.output) {
		m := position.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if missing := nowhere.FindStringSubmatch(m[4]); b.plan.bare && missing != nil {
			e.Message = fmt.Sprintf("%s imports %s", strings.TrimPrefix(m[1], "lorica/"), missing[1])
			return e
		}
		for i := range parts {
			if name, ok := strings.CutPrefix(m[1], parts[i].folder+"/"); ok {
				e.File = fmt.Sprintf("%s/%s:%s:%s", parts[i].dir, name, m[2], m[3])
				e.Message = b.explain(m[4], &parts[i])
				return e
			}
		}
		if text, pos := b.constructor(m[4]); m[1] == "main.go" && text != "" {
			e.Message, e.Pos = text, pos
			return e
		}
	}
	e.Message = firstLine(e.Output)
	return e
}

// blame returns the part of the user's that an output of the go command is about, or
// the most likely one.
func (b *build) blame(output string) part {
	parts := b.plan.parts()
	for _, p := range parts {
		if strings.Contains(output, p.Module.Path) {
			return p
		}
	}
	if len(parts) > 0 {
		return parts[0]
	}
	return part{dir: b.plan.app.dir, pos: b.plan.app.pos}
}

var wrongType = regexp.MustCompile(`cannot use (?:app\.\w+|own\d+\.New\(\)) \((?:value|variable|constant) of (?:interface |struct )?(?:func )?type (.*)\) as `)

// constructor explains an error of the generated main that a function of the user's
// caused, or returns "".
func (b *build) constructor(message string) (string, api.Pos) {
	for i, o := range b.plan.own {
		name, want := fmt.Sprintf("own%d.New", i+1), "want func New() pep.Guard"
		if o.Class == catalog.ClassGate {
			want = "want func New() pep.Gate"
		}
		switch {
		case !strings.Contains(message, name):
		case strings.Contains(message, "undefined: "+name):
			return fmt.Sprintf("package %s has no function New: %s", o.ID, want), o.Named.Pos
		default:
			if m := wrongType.FindStringSubmatch(message); m != nil {
				return fmt.Sprintf("%s.New returns %s: %s (%s)", o.ID, m[1], want, b.translate(message[strings.LastIndex(message, ": ")+2:])), o.Named.Pos
			}
			return fmt.Sprintf("%s.New cannot construct the module: %s (%s)", o.ID, want, strings.ReplaceAll(b.translate(message), name, "New")), o.Named.Pos
		}
	}
	app := b.plan.app
	want := fmt.Sprintf("want func %s() (http.Handler, error)", app.function)
	switch {
	case strings.Contains(message, "undefined: app."+app.function):
		return fmt.Sprintf("package %s has no function %s: %s", app.pkg, app.function, want), app.pos
	case strings.Contains(message, "app."+app.function) || strings.Contains(message, "handler.New"):
		if m := wrongType.FindStringSubmatch(message); m != nil {
			return fmt.Sprintf("%s.%s is %s: %s", app.pkg, app.function, m[1], want), app.pos
		}
		detail := strings.ReplaceAll(b.translate(message), "app."+app.function, app.function)
		return fmt.Sprintf("%s.%s cannot construct the application: %s (%s)", app.pkg, app.function, want, detail), app.pos
	}
	return "", api.Pos{}
}

var nowhere = regexp.MustCompile(`cannot find module providing package (\S+): import lookup disabled by -mod=readonly`)

// explain says in a message of the go command what to do, where the flags of the
// builder made it less clear.
func (b *build) explain(message string, p *part) string {
	m := nowhere.FindStringSubmatch(message)
	switch {
	case m == nil:
		return b.translate(message)
	case strings.HasPrefix(m[1], p.Module.Path+"/"):
		return fmt.Sprintf("the module has no package %s", m[1])
	default:
		return fmt.Sprintf("no module of go.mod has package %s: run \"go get %s\" in %s", m[1], m[1], p.dir)
	}
}

// translate puts the user's folders where the build folder is named.
func (b *build) translate(s string) string {
	for _, p := range b.plan.parts() {
		s = regexp.MustCompile(`(?m)^(?:\./)?`+p.folder+`/`).ReplaceAllLiteralString(s, p.dir+"/")
		s = regexp.MustCompile(regexp.QuoteMeta(b.dir+"/"+p.folder)+`\b`).ReplaceAllLiteralString(s, p.dir)
		s = strings.ReplaceAll(s, p.Module.Path+"@v0.0.0/", p.dir+"/")
	}
	s = strings.ReplaceAll(s, b.dir+"/"+contentFolder, b.plan.app.dir)
	return strings.ReplaceAll(s, b.dir+"/", "")
}

// firstLine returns the first line of the go command that says something, with
// the next one where it only announces that.
func firstLine(s string) string {
	head := ""
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "go: downloading "):
		case strings.HasSuffix(line, ":") && head == "":
			head = line + " "
		default:
			return head + line
		}
	}
	if head == "" {
		return "the go command failed without a word"
	}
	return head
}
