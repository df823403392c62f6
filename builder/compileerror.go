package builder

import (
	"fmt"
	"regexp"
	"strings"
)

// position is how the compiler begins the line of an error.
var position = regexp.MustCompile(`^(?:\./)?([^\s:]+\.go):(\d+):(\d+): (.*)$`)

// sourceError turns what the compiler said into the first error in the terms of
// the user: in a file of their module, or about the function they named.
func (b *build) sourceError(failed *goError) error {
	e := &SourceError{Pos: b.plan.app.pos, Output: b.translate(failed.output)}
	for line := range strings.Lines(failed.output) {
		m := position.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if name, ok := strings.CutPrefix(m[1], appFolder+"/"); ok {
			e.File = fmt.Sprintf("%s/%s:%s:%s", b.plan.app.dir, name, m[2], m[3])
			e.Message = b.explain(m[4])
			return e
		}
		if text := b.constructor(m[4]); m[1] == "main.go" && text != "" {
			e.Message = text
			return e
		}
	}
	e.Message = firstLine(e.Output)
	return e
}

var wrongType = regexp.MustCompile(`cannot use app\.\w+ \((?:value|variable|constant) of (?:func )?type (.*)\) as `)

// constructor explains an error of the generated main that the user's function
// caused, or returns "".
func (b *build) constructor(message string) string {
	app := b.plan.app
	want := fmt.Sprintf("want func %s() (http.Handler, error)", app.function)
	switch {
	case strings.Contains(message, "undefined: app."+app.function):
		return fmt.Sprintf("package %s has no function %s: %s", app.pkg, app.function, want)
	case strings.Contains(message, "app."+app.function) || strings.Contains(message, "handler.New"):
		if m := wrongType.FindStringSubmatch(message); m != nil {
			return fmt.Sprintf("%s.%s is %s: %s", app.pkg, app.function, m[1], want)
		}
		detail := strings.ReplaceAll(b.translate(message), "app."+app.function, app.function)
		return fmt.Sprintf("%s.%s cannot construct the application: %s (%s)", app.pkg, app.function, want, detail)
	}
	return ""
}

var nowhere = regexp.MustCompile(`cannot find module providing package (\S+): import lookup disabled by -mod=readonly`)

// explain says in a message of the go command what to do, where the flags of the
// builder made it less clear.
func (b *build) explain(message string) string {
	m := nowhere.FindStringSubmatch(message)
	switch module := b.plan.app.module.Module.Path; {
	case m == nil:
		return b.translate(message)
	case strings.HasPrefix(m[1], module+"/"):
		return fmt.Sprintf("the module has no package %s", m[1])
	default:
		return fmt.Sprintf("no module of go.mod has package %s: run \"go get %s\" in %s", m[1], m[1], b.plan.app.dir)
	}
}

var inApp = regexp.MustCompile(`(?m)^(?:\./)?` + appFolder + `/`)

// translate puts the user's folder where the build folder is named.
func (b *build) translate(s string) string {
	s = inApp.ReplaceAllLiteralString(s, b.plan.app.dir+"/")
	s = strings.ReplaceAll(s, b.dir+"/"+appFolder, b.plan.app.dir)
	s = strings.ReplaceAll(s, b.dir+"/"+contentFolder, b.plan.app.dir)
	if module := b.plan.app.module.Module.Path; module != "" {
		s = strings.ReplaceAll(s, module+"@v0.0.0/", b.plan.app.dir+"/")
	}
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
