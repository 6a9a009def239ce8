package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// claim makes sure that path is a private file in a folder that strangers cannot change, and takes the writer's lock beside it.
// A stranger who may write in the folder could replace the whole database between two starts.
func claim(path string) (string, *os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Dir(path)
	if err := makeFolder(dir); err != nil {
		return "", nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return "", nil, err
	}
	if err := makeFile(path); err != nil {
		lock.Close()
		return "", nil, err
	}
	if err := syncFolder(dir); err != nil {
		lock.Close()
		return "", nil, err
	}
	return path, lock, nil
}

func makeFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return syncFolder(filepath.Dir(dir))
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("folder %s can be written by anyone: chmod 0700 it", dir)
	}
	return nil
}

func makeFile(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	// SQLite gives its log and shared memory the mode of the file.
	return os.Chmod(path, 0o600)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
