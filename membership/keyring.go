package membership

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// ErrNotEncrypted is the answer to key operations of a pool that was opened without a key.
var ErrNotEncrypted = errors.New("gossip encryption is not enabled")

// keyringFile in Config.Dir is a JSON list of base64 keys, the primary one first (serf's format).
const keyringFile = "local.keyring"

func (c *Config) keyringPath() string { return filepath.Join(c.Dir, keyringFile) }

// ParseKey decodes a gossip key. Errors never contain the key.
func ParseKey(key string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		// The decoder's error has only a position, but says nothing of what was wanted.
		return nil, errors.New("the gossip key is not base64; expected the base64 of 16, 24 or 32 bytes")
	}
	if err := memberlist.ValidateKey(raw); err != nil {
		return nil, fmt.Errorf("the gossip key has %d bytes; expected the base64 of 16, 24 or 32 bytes", len(raw))
	}
	return raw, nil
}

// keyring gives the keys to start with, nil for no encryption. A keyring file wins over EncryptKey, because rotation
// changes the file and not the configuration; without a file EncryptKey makes it.
func (c *Config) keyring() (*memberlist.Keyring, error) {
	var given []byte
	if c.EncryptKey != "" {
		var err error
		if given, err = ParseKey(c.EncryptKey); err != nil {
			return nil, fmt.Errorf("membership: encrypt key: %w", err)
		}
	}
	inFile := c.Dir != "" && !c.NoKeyringFile
	if inFile {
		keys, err := loadKeyring(c.keyringPath())
		if err != nil {
			return nil, err
		}
		if len(keys) > 0 {
			ring, err := memberlist.NewKeyring(keys, keys[0])
			if err != nil {
				return nil, fmt.Errorf("membership: keyring %s: %w", c.keyringPath(), err)
			}
			if given != nil && !contains(keys, given) {
				c.Logger.Warn("the configured gossip key is not used, because a keyring without it exists", "file", c.keyringPath())
			}
			return ring, nil
		}
	}
	if given == nil {
		return nil, nil
	}
	if inFile {
		if err := saveKeyring(c.keyringPath(), given); err != nil {
			return nil, fmt.Errorf("membership: keyring: %w", err)
		}
	}
	return memberlist.NewKeyring(nil, given)
}

func contains(keys [][]byte, key []byte) bool {
	for _, k := range keys {
		if string(k) == string(key) {
			return true
		}
	}
	return false
}

// loadKeyring gives no keys when there is no file. It also closes a file that others could read.
func loadKeyring(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("membership: keyring: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("membership: keyring: %w", err)
	}
	var list []string
	if json.Unmarshal(text, &list) != nil || len(list) == 0 {
		return nil, fmt.Errorf("membership: keyring %s is damaged; expected a JSON list of base64 keys, the primary one first", path)
	}
	keys := make([][]byte, len(list))
	for i, k := range list {
		if keys[i], err = ParseKey(k); err != nil {
			return nil, fmt.Errorf("membership: keyring %s: key %d: %w", path, i+1, err)
		}
	}
	return keys, nil
}

// saveKeyring writes the first keyring file, whole or not at all.
func saveKeyring(path string, key []byte) error {
	text, err := json.Marshal([]string{base64.StdEncoding.EncodeToString(key)})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), keyringFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// KeyReport is what the members answered to a key operation.
type KeyReport struct {
	Members     int               // asked
	Answers     int               // received
	Failed      int               // of the answers
	Messages    map[string]string // by member name, what it had to say
	Keys        map[string]int    // ListKeys: on how many members each key (base64) is installed
	PrimaryKeys map[string]int    // ListKeys: on how many members each key is the one that encrypts
}

// InstallKey makes every member accept key (base64) besides those it has. Like the other key operations it asks all
// members and waits for their answers, a few seconds at most; when not all agree it returns an error with the report.
func (p *Pool) InstallKey(key string) (KeyReport, error) {
	return p.keyOp(key, (*serf.KeyManager).InstallKey)
}

// UseKey makes every member encrypt with key, which must be installed everywhere.
func (p *Pool) UseKey(key string) (KeyReport, error) {
	return p.keyOp(key, (*serf.KeyManager).UseKey)
}

// RemoveKey makes every member forget key, which must not be the one in use.
func (p *Pool) RemoveKey(key string) (KeyReport, error) {
	return p.keyOp(key, (*serf.KeyManager).RemoveKey)
}

// ListKeys asks every member for its keys. The report holds secrets: do not log it.
func (p *Pool) ListKeys() (KeyReport, error) {
	if !p.serf.EncryptionEnabled() {
		return KeyReport{}, ErrNotEncrypted
	}
	return keyReport(p.serf.KeyManager().ListKeys())
}

func (p *Pool) keyOp(key string, op func(*serf.KeyManager, string) (*serf.KeyResponse, error)) (KeyReport, error) {
	if !p.serf.EncryptionEnabled() {
		return KeyReport{}, ErrNotEncrypted
	}
	if _, err := ParseKey(key); err != nil {
		return KeyReport{}, err
	}
	return keyReport(op(p.serf.KeyManager(), key))
}

func keyReport(r *serf.KeyResponse, err error) (KeyReport, error) {
	if err != nil {
		err = fmt.Errorf("gossip keys: %w", err)
	}
	if r == nil {
		return KeyReport{}, err
	}
	delete(r.PrimaryKeys, "") // the library counts answers without a key here
	return KeyReport{r.NumNodes, r.NumResp, r.NumErr, r.Messages, r.Keys, r.PrimaryKeys}, err
}

// Encrypted says whether this agent's gossip is.
func (p *Pool) Encrypted() bool { return p.serf.EncryptionEnabled() }
