package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"path/filepath"
)

// Signing returns the key that programs are signed with, below the user's data
// folder, and makes it at its first use.
func Signing(data string) (ed25519.PrivateKey, error) {
	path := filepath.Join(data, "keys", "program-signing.pem")
	b, err := kept(path, nil, func() ([]byte, error) {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return encodeKey(private)
	})
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an Ed25519 key", path)
	}
	return private, nil
}
