// Package keys makes and keeps the keys of this machine's user: the key that
// programs are signed with, and what a policy is tried with before there are
// real certificates and an identity provider.
//
// What is made for development is worth nothing elsewhere: its authority is
// constrained to the names and addresses of loopback and ends after a week, it is
// installed nowhere, and images that use it listen on loopback only.
//
// Files are PEM or JSON, readable by their owner only. Several processes may
// call at once: a file appears whole, and all go on with the one that is there.
package keys

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A modeError names a key file that others can read.
type modeError struct{ path string }

func (e *modeError) Error() string {
	return fmt.Sprintf("%s can be read by others: chmod 600 it, or remove it to have a new key made", e.path)
}

// kept returns the content of a file that holds a key. Where the file is missing,
// or is not good any more, makes a new one first.
func kept(path string, good func([]byte) bool, make func() ([]byte, error)) ([]byte, error) {
	b, err := read(path)
	if err == nil && (good == nil || good(b)) {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	missing := err != nil
	fresh, err := make()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	tmp, err := WriteTemp(path, fresh)
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp)
	if missing { // another process may make one at the same moment: the first link wins
		if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	} else if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return read(path)
}

func read(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &modeError{path}
	}
	return b, nil
}

// WriteTemp writes data, synced, to a new file beside path, mode 0600, and
// returns its name.
func WriteTemp(path string, data []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// Types of PEM blocks.
const (
	pemKey         = "PRIVATE KEY"
	pemCertificate = "CERTIFICATE"
)

// encodeKey returns a private key as PKCS #8 in PEM.
func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// decodeKey is the inverse of encodeKey; other blocks are left alone.
func decodeKey(b []byte) (crypto.PrivateKey, error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == pemKey {
			return x509.ParsePKCS8PrivateKey(block.Bytes)
		}
	}
	return nil, errors.New("there is no private key")
}
