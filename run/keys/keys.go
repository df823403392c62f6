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

	"golang.org/x/sys/unix"
)

// A modeError names a key file that others can read.
type modeError struct{ path string }

func (e *modeError) Error() string {
	return fmt.Sprintf("%s can be read by others: chmod 600 it, or remove it to have a new key made", e.path)
}

// kept returns the content of a file that holds a key. Where the file is missing,
// or is not good any more, makes a new one first.
func kept(path string, good func([]byte) bool, make func() ([]byte, error)) ([]byte, error) {
	b, err := readGood(path, good)
	if b != nil || err != nil {
		return b, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	// Another process may have made one meanwhile.
	if b, err = readGood(path, good); b != nil || err != nil {
		return b, err
	}
	if b, err = make(); err != nil {
		return nil, err
	}
	return b, Write(path, b)
}

// readGood returns nil for a file that is missing or not good.
func readGood(path string, good func([]byte) bool) ([]byte, error) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && good != nil && !good(b) {
		return nil, nil
	}
	return b, err
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

// Write makes data the content of a file, mode 0600, whole or not at all. What was
// there before is replaced, not written to: others may have it open, or a link.
func Write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
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
