package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// Bounds of what is read.
const (
	MaxFileSize = 1 << 20 // bytes of one file
	MaxFiles    = 64      // files of a folder
	maxDocs     = 256     // documents of all files
)

// A File is one YAML file to be read. Dir is the folder that relative paths in
// it start from; where it is empty the file system is not looked at, and the
// existence of folders and user lists is not checked.
type File struct {
	Name string
	Data []byte
	Dir  string
}

// Load reads and checks a .yaml file, or every .yaml file of a folder, in the
// order of their names and without subfolders. Its error, if any, is Errors.
//
// In a folder, a YAML file that has neither apiVersion nor kind is somebody
// else's and is left alone; a policy or a workload that is missed in this way is
// reported by the other half, which then lacks its counterpart.
func Load(path string) (*Bundle, error) { return load(path, false) }

// LoadUntested is Load without the tests of the policies, and without what
// spec.coverage asks of them: for who runs them.
func LoadUntested(path string) (*Bundle, error) { return load(path, true) }

func load(path string, untested bool) (*Bundle, error) {
	files, folder, err := Files(path)
	if err != nil {
		return nil, err
	}
	b, other, err := parse(files, folder, untested)
	if err == nil && folder && len(b.Deployments) == 0 {
		return nil, Errors{{Pos: api.Pos{File: path}, Message: "no file here is a Lorica resource: none of " + strings.Join(other, ", ") + " has apiVersion and kind",
			Fix: "`lorica init` writes a policy and a workload to start from"}}
	}
	return b, err
}

// Files returns what Load reads, and whether path is a folder. Its error, if any, is Errors.
func Files(path string) (files []File, folder bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, fileError(path, err)
	}
	if !info.IsDir() {
		f, err := readFile(path)
		return []File{f}, false, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, true, fileError(path, err)
	}
	var errs Errors
	for _, e := range entries { // sorted by name
		if ext := filepath.Ext(e.Name()); ext != ".yaml" && ext != ".yml" || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if len(files) == MaxFiles {
			return nil, true, Errors{{Pos: api.Pos{File: e.Name()}, Message: fmt.Sprintf("the folder has more than %d YAML files", MaxFiles), Fix: "pass one file, or a smaller folder"}}
		}
		f, err := readFile(filepath.Join(path, e.Name()))
		if err != nil {
			var es Errors
			errors.As(err, &es)
			errs = append(errs, es...)
			continue
		}
		files = append(files, f)
	}
	if len(errs) > 0 {
		return nil, true, errs
	}
	if len(files) == 0 {
		return nil, true, Errors{{Pos: api.Pos{File: path}, Message: "the folder has no YAML files", Fix: "`lorica init` writes a policy and a workload to start from"}}
	}
	return files, true, nil
}

// ParseUntested is LoadUntested of files that Files has returned, which may have changed.
func ParseUntested(files []File, folder bool) (*Bundle, error) {
	b, _, err := parse(files, folder, true)
	return b, err
}

func fileError(path string, err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return Errors{{Pos: api.Pos{File: path}, Message: "cannot be read: " + err.Error(), Fix: "-f names a .yaml file or a folder of them"}}
}

// readFile refuses by size before it reads, and again while it reads.
func readFile(path string) (File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return File{}, fileError(path, err)
	}
	if !info.Mode().IsRegular() {
		return File{}, fileError(path, errors.New("not a regular file"))
	}
	name := filepath.Base(path)
	if info.Size() > MaxFileSize {
		return File{}, Errors{tooLarge(name, info.Size())}
	}
	f, err := os.Open(path)
	if err != nil {
		return File{}, fileError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return File{}, fileError(path, err)
	}
	return File{Name: name, Data: data, Dir: filepath.Dir(path)}, nil
}

func tooLarge(name string, size int64) *Error {
	return &Error{Pos: api.Pos{File: name, Line: 1, Column: 1}, Message: fmt.Sprintf("the file has %d bytes; the limit is %d", size, MaxFileSize), Fix: "split it into several files"}
}

// Parse reads and checks files. Its error, if any, is Errors, and the Bundle is
// then nil. The same files give the same result.
func Parse(files []File) (*Bundle, error) {
	b, _, err := parse(files, false, false)
	return b, err
}

// parse also returns the names of the files that it left alone because they are
// not resources, where that is allowed.
func parse(files []File, mixed, untested bool) (*Bundle, []string, error) {
	p := parsing{untested: untested}
	sources, other := p.decode(files, mixed)
	if len(other) == len(files) {
		return &Bundle{}, other, nil
	}
	b := p.bundle()
	if es := p.sorted(); len(es) > 0 {
		return nil, other, es
	}
	b.Warnings, b.sources = inOrder(p.warnings), sources
	return b, other, nil
}

// Decoded returns what the documents that Load reads say, as far as it can be read, however
// wrong: for who watches the files that they name.
func Decoded(path string) (workloads []*api.Workload, policies []*api.SecurityPolicy) {
	files, folder, _ := Files(path)
	var p parsing
	p.decode(files, folder)
	for _, w := range p.workloads {
		workloads = append(workloads, w.Workload)
	}
	for _, s := range p.policies {
		policies = append(policies, s.SecurityPolicy)
	}
	return workloads, policies
}

// decode reads the documents of files, and returns those that are resources, and the names
// of the others, where there may be some.
func (p *parsing) decode(files []File, mixed bool) (sources []*source, other []string) {
	count := 0
	for _, f := range files {
		if int64(len(f.Data)) > MaxFileSize {
			p.errs = append(p.errs, tooLarge(f.Name, int64(len(f.Data))))
			continue
		}
		src := newSource(f)
		docs := p.documents(src, f.Data)
		if mixed && len(docs) > 0 && !anyResource(docs) {
			other = append(other, f.Name)
			continue
		}
		sources = append(sources, src)
		for _, n := range docs {
			if count++; count > maxDocs {
				p.add(src, api.Pos{File: src.name, Line: n.Line, Column: n.Column}, "split the folder", "more than %d documents", maxDocs)
				p.broken = true
				break
			}
			p.resource(&decoder{report: &p.report, src: src, bad: make(map[string]bool)}, n)
		}
	}
	return sources, other
}

// parsing is the state of one call of Parse.
type parsing struct {
	report
	workloads []*workload
	policies  []*securityPolicy
	untested  bool // the tests are run by somebody else
	broken    bool // a document could not be decoded: do not judge what it may have held
}

type workload struct {
	*api.Workload
	*decoder
}

type securityPolicy struct {
	*api.SecurityPolicy
	*decoder
	specPos api.Pos
	auth    *Authorization
	cedar   *block      // the text of the rules
	written []statement // one for each rule of auth
}

// document reads what every kind has.
func (d *decoder) document(n *yaml.Node, version, kind, metadata, spec func(*yaml.Node)) {
	d.object(n, "", field{name: "apiVersion", must: true, read: version},
		field{name: "kind", must: true, read: kind},
		field{name: "metadata", must: true, read: metadata},
		field{name: "spec", must: true, read: spec},
		field{name: "status", notYet: true})
}

// resource decodes one document.
func (p *parsing) resource(d *decoder, n *yaml.Node) {
	before := p.count()
	var version, kind string
	var kindNode, spec *yaml.Node
	var meta api.Metadata
	d.document(n, d.str(&version, "apiVersion"), func(v *yaml.Node) { kindNode = v; d.str(&kind, "kind")(v) }, d.metadata(&meta), func(v *yaml.Node) { spec = v })
	if v := value(n, "apiVersion"); v != n && v.Tag == "!!str" && version != api.Version {
		d.fail(v, "write "+api.Version, "apiVersion %q is unknown", version)
	}
	switch kind {
	case "":
		if kindNode != nil && kindNode.Tag == "!!str" { // left alone it would say nothing at all
			d.fail(kindNode, "write Workload or SecurityPolicy", "kind is empty")
		}
	case api.KindWorkload:
		w := &api.Workload{Metadata: meta, Dir: d.src.dir}
		if spec != nil {
			d.workload(spec, w)
			p.workloads = append(p.workloads, &workload{w, d})
		}
	case api.KindSecurityPolicy:
		s := &api.SecurityPolicy{Metadata: meta, Dir: d.src.dir}
		if spec != nil {
			d.securityPolicy(spec, s)
			p.policies = append(p.policies, &securityPolicy{SecurityPolicy: s, decoder: d, specPos: d.pos(spec)})
		}
	case "Tenant", "Infrastructure", "Image", "Instance":
		d.fail(kindNode, "write Workload or SecurityPolicy", "kind %s is not supported yet", kind)
	default:
		d.fail(kindNode, didYouMean(kind, []string{api.KindWorkload, api.KindSecurityPolicy}), "kind %q is unknown", kind)
	}
	if p.count() > before {
		p.broken = true
	}
}
