package pki

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

// encryptionConfig is the part of apiserver.config.k8s.io/v1 EncryptionConfiguration that is used here.
type encryptionConfig struct {
	Kind       string               `json:"kind"`
	APIVersion string               `json:"apiVersion"`
	Resources  []encryptedResources `json:"resources"`
}

type encryptedResources struct {
	Resources []string             `json:"resources"`
	Providers []encryptionProvider `json:"providers"`
}

type encryptionProvider struct {
	Secretbox encryptionKeys `json:"secretbox"`
}

type encryptionKeys struct {
	Keys []encryptionKey `json:"keys"`
}

type encryptionKey struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
}

// EnsureEncryption makes the apiserver's EncryptionConfiguration at path with a fresh key, or checks the one
// that is there. Secrets are sealed with secretbox (XSalsa20-Poly1305): it is authenticated, unlike aescbc, and
// its long random nonce sets no limit on writes, unlike aesgcm. There is no identity provider: nothing
// is ever stored in the clear, and nothing that somebody plants in the clear is accepted.
func EnsureEncryption(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeEncryption(path)
	}
	if err == nil {
		err = checkEncryption(data)
	}
	if err != nil {
		return &hint.Error{Op: "read encryption key", On: path, Err: err,
			Do: "restore the file from a backup of the data dir; without it the Secrets in the datastore cannot be read"}
	}
	return os.Chmod(path, 0o600)
}

func makeEncryption(path string) error {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return fmt.Errorf("make encryption key: %w", err)
	}
	cfg := encryptionConfig{
		Kind:       "EncryptionConfiguration",
		APIVersion: "apiserver.config.k8s.io/v1",
		Resources: []encryptedResources{{
			Resources: []string{"secrets"},
			Providers: []encryptionProvider{{Secretbox: encryptionKeys{
				Keys: []encryptionKey{{Name: "first", Secret: base64.StdEncoding.EncodeToString(secret)}},
			}}},
		}},
	}
	data, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return fmt.Errorf("encode encryption configuration: %w", err)
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// checkEncryption refuses what is damaged. An operator may have added providers or written YAML: then the
// apiserver is the judge, so only an empty file and a broken JSON document are refused here.
func checkEncryption(data []byte) error {
	if len(data) == 0 {
		return errors.New("file is empty")
	}
	if data[0] != '{' {
		return nil
	}
	var cfg encryptionConfig
	if err := json.Unmarshal(data, &cfg); err != nil {
		return err
	}
	if len(cfg.Resources) == 0 {
		return errors.New("no resources in it")
	}
	return nil
}
