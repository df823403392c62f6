package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	exptypes "github.com/cedar-policy/cedar-go/x/exp/types"
)

// A suite is what came of tests that lie in one folder or archive.
type suite struct {
	Name       string
	Tests      int
	Invalid    int // tests whose policies are not to validate; they are judged as well
	Requests   int
	Refused    int // tests whose policies do not compile
	Mismatches int
	Unreadable string `json:",omitempty"` // why there is no more
	Found      []mismatch
	Refusals   []string
}

const most = 20 // mismatches and refusals that are shown

func (s *suite) failed() bool {
	return s.Unreadable != "" || s.Mismatches > 0 || s.Refused > 0 || s.Requests == 0
}

func (s *suite) found(m mismatch) {
	if s.Mismatches++; len(s.Found) < most {
		s.Found = append(s.Found, m)
	}
}

// moduleCorpus returns the archive of tests that the module of cedar-go carries.
func moduleCorpus() (string, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	if err != nil {
		return "", fmt.Errorf("the folder of cedar-go is not found: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "corpus-tests.tar.gz"), nil
}

func isArchive(name string) bool {
	return strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// suites judges an archive of tests, or a folder of tests and archives.
func suites(name string) []*suite {
	if isArchive(name) {
		files, err := unpack(name)
		return []*suite{run(name, files, err)}
	}
	files, archives := map[string][]byte{}, []string{}
	err := fs.WalkDir(os.DirFS(name), ".", func(at string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		full := filepath.Join(name, at)
		if isArchive(at) {
			archives = append(archives, full)
			return nil
		}
		files[at], err = os.ReadFile(full)
		return err
	})
	var list []*suite
	for _, a := range archives {
		list = append(list, suites(a)...)
	}
	if loose := run(name, files, err); loose.Tests > 0 || err != nil || len(list) == 0 {
		list = append(list, loose)
	}
	return list
}

// unpack returns the files of an archive by name.
func unpack(name string) (map[string][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if files[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
				return nil, err
			}
		}
	}
}

// A test is a JSON file that names policies, entities and a schema, and has requests.
type test struct {
	Policies, Entities, Schema string
	ShouldValidate             *bool
	Requests                   []struct {
		Description                 string
		Principal, Action, Resource uid
		Context                     json.RawMessage
		Decision                    string
		Reason, Errors              []string
	}
}

type uid struct{ Type, ID string }

func (u uid) entity() cedar.EntityUID {
	return cedar.NewEntityUID(cedar.EntityType(u.Type), cedar.String(u.ID))
}

func run(name string, files map[string][]byte, err error) *suite {
	s := &suite{Name: name}
	if err != nil {
		s.Unreadable = err.Error()
		return s
	}
	for _, at := range slices.Sorted(maps.Keys(files)) {
		// Entities are lists; schemas have no requests.
		if !strings.HasSuffix(at, ".json") || !bytes.HasPrefix(bytes.TrimSpace(files[at]), []byte("{")) {
			continue
		}
		var t test
		if err := json.Unmarshal(files[at], &t); err != nil {
			s.Unreadable = fmt.Sprintf("%s: %v", at, err)
			return s
		}
		if t.Policies == "" && t.Requests == nil {
			continue
		}
		if err := s.judge(files, at, &t); err != nil {
			s.Unreadable = fmt.Sprintf("%s: %v", at, err)
			return s
		}
	}
	if s.Requests == 0 {
		s.Unreadable = "it holds no tests"
	}
	return s
}

// part returns a file that a test names from the root of its suite, wherever that is; or
// that lies beside the test.
func part(files map[string][]byte, from, name string) ([]byte, error) {
	for dir := path.Dir(from); ; dir = path.Dir(dir) {
		if b, ok := files[path.Join(dir, name)]; ok {
			return b, nil
		}
		if dir == "." || dir == "/" {
			break
		}
	}
	if b, ok := files[path.Join(path.Dir(from), path.Base(name))]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%s is missing", name)
}

func (s *suite) judge(files map[string][]byte, at string, t *test) error {
	s.Tests++
	if t.ShouldValidate != nil && !*t.ShouldValidate {
		s.Invalid++
	}
	policies, err := part(files, at, t.Policies)
	if err != nil {
		return err
	}
	var law *resolved.Schema
	if t.Schema != "" {
		if law, err = readSchema(files, at, t.Schema); err != nil {
			return err
		}
	}
	facts, err := part(files, at, t.Entities)
	if err != nil {
		return err
	}
	entities, err := readEntities(facts, law)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Entities, err)
	}
	p, err := newPair(policies, entities)
	var refused refusal
	if errors.As(err, &refused) {
		if s.Refused++; len(s.Refusals) < most {
			s.Refusals = append(s.Refusals, fmt.Sprintf("%s: %v", at, err))
		}
		s.Requests += len(t.Requests)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.Policies, err)
	}
	for i, q := range t.Requests {
		s.Requests++
		r := cedar.Request{Principal: q.Principal.entity(), Action: q.Action.entity(), Resource: q.Resource.entity()}
		if r.Context, err = readContext(q.Context, law, r.Action); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		want := outcome{allow: strings.EqualFold(q.Decision, "allow"), reasons: q.Reason, errors: q.Errors}
		want.sort()
		where := fmt.Sprintf("%s request %d", at, i)
		reference, m := p.compare(r)
		if m != nil {
			m.Where = where
			s.found(*m)
		} else if !reference.equal(want) {
			s.found(mismatch{where, describe(r), "the test: " + want.String(), reference.String() + " (cedar-go too)", string(policies), ""})
		}
	}
	return nil
}

func readSchema(files map[string][]byte, at, name string) (*resolved.Schema, error) {
	text, err := part(files, at, name)
	if err != nil {
		return nil, err
	}
	var s schema.Schema
	if strings.HasSuffix(name, ".json") {
		err = s.UnmarshalJSON(text)
	} else {
		err = s.UnmarshalCedar(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	law, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return law, nil
}

// readEntities reads entities with the help of the schema, which says what a text such as
// "1.5" stands for, and adds the actions of the schema. Entities that do not fit the schema
// are read without.
func readEntities(text []byte, law *resolved.Schema) (types.EntityMap, error) {
	var entities types.EntityMap
	var fitting exptypes.EntityMap
	if law != nil && fitting.UnmarshalJSONWithSchema(text, law) == nil {
		entities = types.EntityMap(fitting)
	} else if err := json.Unmarshal(text, &entities); err != nil {
		return nil, err
	}
	if law != nil {
		for name, a := range law.Actions {
			if _, ok := entities[name]; !ok {
				entities[name] = a.Entity
			}
		}
	}
	return entities, nil
}

// readContext reads a context as the attributes of an entity are read.
func readContext(text []byte, law *resolved.Schema, action cedar.EntityUID) (cedar.Record, error) {
	if len(text) == 0 {
		return cedar.Record{}, nil
	}
	if law != nil && law.Actions[action].AppliesTo != nil {
		one := &resolved.Schema{Entities: map[types.EntityType]resolved.Entity{"Context": {Name: "Context", Shape: law.Actions[action].AppliesTo.Context}}}
		var e exptypes.Entity
		if e.UnmarshalJSONWithSchema(fmt.Appendf(nil, `{"uid": {"type": "Context", "id": ""}, "parents": [], "attrs": %s}`, text), one) == nil {
			return e.Attributes, nil
		}
	}
	var context cedar.Record
	err := json.Unmarshal(text, &context)
	return context, err
}
