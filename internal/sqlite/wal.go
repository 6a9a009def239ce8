package sqlite

import "sync"

// The log's length in frames of one page. Past walSoft the keeper copies the log into the file beside the commits; past walHard the
// writer stops to copy the little that is left, because the log starts over only when a writer finds all of it copied.
const (
	walSoft = 1024
	walHard = 4096
	// Asking for the log's length costs some microseconds: once in so many commits is enough.
	walEvery = 16
)

// walKeeper folds the write-ahead log into the database file. A checkpoint inside a commit would make one caller in a thousand
// pay for the thousand pages.
type walKeeper struct {
	open  func() (*conn, error)
	start sync.Once
	wake  chan struct{}
	done  chan struct{}

	sinceLook int // owned by the writer goroutine
}

func newWALKeeper(open func() (*conn, error)) *walKeeper {
	return &walKeeper{open: open, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// committed is called by the writer, between transactions.
func (k *walKeeper) committed(w *conn) {
	if k.sinceLook++; k.sinceLook < walEvery {
		return
	}
	k.sinceLook = 0
	log, copied, err := checkpoint(w, "NOOP")
	if err != nil || log-copied < walSoft {
		return
	}
	if log >= walHard {
		_, _, _ = checkpoint(w, "PASSIVE") // readers hold it back at worst, and it is tried again
		return
	}
	k.start.Do(func() { go k.run() })
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *walKeeper) run() {
	defer close(k.done)
	c, err := k.open()
	if err != nil {
		return // the writer copies past walHard
	}
	defer c.close()
	for range k.wake {
		// An error loses nothing: the log keeps every frame until a checkpoint has synced the file.
		_, _, _ = checkpoint(c, "PASSIVE")
	}
}

// checkpoint says how many frames the log has and how many of them are in the file.
func checkpoint(c *conn, kind string) (log, copied int, err error) {
	t := &tx{c: c}
	defer t.end()
	var busy int
	err = t.queryTrusted("PRAGMA wal_checkpoint("+kind+")").Scan(&busy, &log, &copied)
	return log, copied, err
}

func (k *walKeeper) close() {
	started := true
	k.start.Do(func() { started = false })
	close(k.wake)
	if started {
		<-k.done
	}
}
