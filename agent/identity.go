package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-uuid"
)

// nodeIDFile holds the UUID of the machine, in the data directory.
const nodeIDFile = "node-id"

// identity gives this machine's UUID: the configured one, else that of the file node-id in the data directory,
// made at the first start. Without a data directory it is new at each start.
func identity(cfg *Config) (string, error) {
	if cfg.DataDir == "" {
		if cfg.NodeID != "" {
			return cfg.NodeID, nil
		}
		return uuid.GenerateUUID()
	}
	file := filepath.Join(cfg.DataDir, nodeIDFile)
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	kept := strings.TrimSpace(string(b))
	switch {
	case kept != "" && cfg.NodeID != "" && !strings.EqualFold(kept, cfg.NodeID):
		return "", fmt.Errorf("node_id is %s, but the data directory %s belongs to node %s: use another data directory, or leave node_id out", cfg.NodeID, cfg.DataDir, kept)
	case kept != "":
		if _, err := uuid.ParseUUID(kept); err != nil {
			return "", fmt.Errorf("%s does not hold a UUID: %w", file, err)
		}
		return strings.ToLower(kept), nil
	}
	id := strings.ToLower(cfg.NodeID)
	if id == "" {
		if id, err = uuid.GenerateUUID(); err != nil {
			return "", err
		}
	}
	return id, writeFile(file, []byte(id+"\n"))
}

// openDataDir makes the data directory and proves that it can be written.
func openDataDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".probe")
	if err != nil {
		return fmt.Errorf("data_dir %s cannot be written: %w", dir, err)
	}
	name := probe.Name()
	return errors.Join(probe.Close(), os.Remove(name))
}

// writeFile replaces a small file whole: written beside, synced and renamed.
func writeFile(file string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file))
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails when the rename has worked, as it should
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
