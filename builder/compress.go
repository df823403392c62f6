package builder

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"path"
	"strings"

	"lorica.dev/lorica/catalog"
)

// packedFolder holds the files of a static application that compress, in gzip's form,
// in the build folder.
const packedFolder = "packed"

// compresses is the module that serves them.
const compresses = "app/compressed"

// A packer compresses files, and remembers what it did last: a policy is saved far more
// often than a file changes. The zero packer is ready.
type packer struct{ done map[[sha256.Size]byte][]byte }

// pack returns a copy of the application with a smaller form beside each file that has
// one.
func (p *packer) pack(app *application) (*application, error) {
	out := *app
	out.files = app.files[:len(app.files):len(app.files)]
	now := map[[sha256.Size]byte][]byte{}
	for _, f := range app.files {
		name, ok := strings.CutPrefix(f.name, contentFolder+"/")
		if !ok || isCompressed(name) {
			continue
		}
		sum := sha256.Sum256(f.data)
		small, known := p.done[sum]
		if !known {
			var err error
			if small, err = squeeze(f.data); err != nil {
				return nil, err
			}
		}
		if now[sum] = small; small != nil {
			out.packed = true
			out.files = append(out.files, file{path.Join(packedFolder, name), small})
		}
	}
	p.done = now
	return &out, nil
}

// squeeze returns data in gzip's form, the same for the same data, or nothing where
// that saves less than a tenth: a second representation must be worth its place.
func squeeze(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if b.Len() > len(data)-len(data)/10-1 {
		return nil, nil
	}
	return b.Bytes(), nil
}

// isCompressed reports whether files of that name are compressed by their own format.
func isCompressed(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".gz", ".tgz", ".zip", ".br", ".zst", ".xz", ".bz2", ".7z", ".svgz", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif",
		".woff", ".woff2", ".mp3", ".mp4", ".webm", ".ogg", ".pdf":
		return true
	}
	return false
}

// has reports whether a set has a module.
func has(modules []*catalog.Module, id string) bool {
	for _, m := range modules {
		if m.ID == id {
			return true
		}
	}
	return false
}
