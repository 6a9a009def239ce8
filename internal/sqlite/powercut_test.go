package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"

	"cardea/internal/store"
	"cardea/internal/storetest"
)

// disk is what a power cut would leave of the files in one folder: their bytes as of their last successful sync.
type disk struct {
	dir string

	mu      sync.Mutex
	durable map[string][]byte
	fail    bool // every sync fails from now on
	syncs   int
}

func (d *disk) sync(path string, real func() int32) int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail {
		return lib.SQLITE_IOERR_FSYNC
	}
	if rc := real(); rc != lib.SQLITE_OK {
		return rc
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return lib.SQLITE_IOERR_FSYNC
	}
	d.durable[filepath.Base(path)] = data
	d.syncs++
	return lib.SQLITE_OK
}

// cut writes what a power cut at this moment would leave into a folder.
func (d *disk) cut(t *testing.T, dir string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, data := range d.durable {
		// A file that was deleted stays deleted: SQLite syncs the folder with the first sync of the log that follows.
		if _, err := os.Stat(filepath.Join(d.dir, name)); err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The shim is an SQLite VFS: the system's own, but for the sync of files that a disk watches.
const shimName = "powercut"

var shim = struct {
	once    sync.Once
	mu      sync.Mutex
	disks   map[string]*disk
	files   map[uintptr]string                   // open files by their C pointer
	methods map[uintptr]uintptr                  // the system's method tables to ours
	real    map[uintptr]*lib.Tsqlite3_io_methods // ours to the system's
	vfs     uintptr
	open    func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32
	sync    func(*libc.TLS, uintptr, int32) int32
}{disks: map[string]*disk{}, files: map[uintptr]string{}, methods: map[uintptr]uintptr{}, real: map[uintptr]*lib.Tsqlite3_io_methods{}}

func watch(t *testing.T) *disk {
	t.Helper()
	shim.once.Do(installShim)
	d := &disk{dir: t.TempDir(), durable: map[string][]byte{}}
	shim.mu.Lock()
	defer shim.mu.Unlock()
	shim.disks[d.dir] = d
	return d
}

// at reads a C pointer as what it points to.
func at[T any](p uintptr) *T { return *(**T)(unsafe.Pointer(&p)) }

func installShim() {
	tls := libc.NewTLS()
	shim.vfs = lib.Xsqlite3_vfs_find(tls, 0)
	real := at[lib.Tsqlite3_vfs](shim.vfs)
	p := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(lib.Tsqlite3_vfs{})))
	name, err := libc.CString(shimName)
	if err != nil {
		panic(err)
	}
	own := at[lib.Tsqlite3_vfs](p)
	*own = *real
	own.FzName, own.FpNext = name, 0
	shim.open, shim.sync = shimOpen, shimSync
	own.FxOpen = *(*uintptr)(unsafe.Pointer(&shim.open))
	if rc := lib.Xsqlite3_vfs_register(tls, p, 0); rc != lib.SQLITE_OK {
		panic(rc)
	}
}

func shimOpen(tls *libc.TLS, _, zName, file uintptr, flags int32, out uintptr) int32 {
	fp := at[lib.Tsqlite3_vfs](shim.vfs).FxOpen
	open := *(*func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32)(unsafe.Pointer(&fp))
	rc := open(tls, shim.vfs, zName, file, flags, out)
	if rc != lib.SQLITE_OK || zName == 0 {
		return rc
	}
	shim.mu.Lock()
	defer shim.mu.Unlock()
	f := at[struct{ methods uintptr }](file)
	ours, ok := shim.methods[f.methods]
	if !ok {
		real := at[lib.Tsqlite3_io_methods](f.methods)
		ours = libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(*real)))
		*at[lib.Tsqlite3_io_methods](ours) = *real
		at[lib.Tsqlite3_io_methods](ours).FxSync = *(*uintptr)(unsafe.Pointer(&shim.sync))
		shim.methods[f.methods], shim.real[ours] = ours, real
	}
	f.methods = ours
	shim.files[file] = libc.GoString(zName)
	return rc
}

func shimSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	shim.mu.Lock()
	path := shim.files[file]
	fp := shim.real[at[struct{ methods uintptr }](file).methods].FxSync
	d := shim.disks[filepath.Dir(path)]
	shim.mu.Unlock()
	real := func() int32 {
		return (*(*func(*libc.TLS, uintptr, int32) int32)(unsafe.Pointer(&fp)))(tls, file, flags)
	}
	if d == nil {
		return real()
	}
	return d.sync(path, real)
}

func withShim(o *options) { o.vfs = shimName }

func count(t *testing.T, db store.DB) (n int) {
	t.Helper()
	err := db.View(t.Context(), func(tx store.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM item`).Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAcknowledgedSurvivesPowerCut cuts the power after every answer, for lone callers and for groups, across checkpoints.
func TestAcknowledgedSurvivesPowerCut(t *testing.T) {
	d := watch(t)
	db := openTest(t, filepath.Join(d.dir, "x.db"), migrations(storetest.SQLite), withShim)
	body := make([]byte, 30<<10)
	acknowledged := 0
	for round := range 40 {
		var wg sync.WaitGroup
		errs := make([]error, 1+round%8)
		for i := range errs {
			wg.Go(func() {
				errs[i] = db.Commit(context.Background(), func(tx store.Tx) error {
					_, err := tx.Exec(`INSERT INTO item (id, n, body) VALUES ($1, 1, $2)`, fmt.Sprintf("%d-%d", round, i), body)
					return err
				})
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		acknowledged += len(errs)
		after := t.TempDir()
		d.cut(t, after)
		recovered := openTest(t, filepath.Join(after, "x.db"), migrations(storetest.SQLite))
		if n := count(t, recovered); n < acknowledged {
			t.Fatalf("%d commits were acknowledged, %d survived the power cut", acknowledged, n)
		}
		if err := recovered.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestViewsSeeDurableStateOnly: what a View has seen must survive a power cut (invariant 13).
func TestViewsSeeDurableStateOnly(t *testing.T) {
	d := watch(t)
	db := openTest(t, filepath.Join(d.dir, "x.db"), migrations(storetest.SQLite), withShim)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				put(t, db, fmt.Sprint(i))
			}
		}
	})
	for range 50 {
		seen := count(t, db)
		after := t.TempDir()
		d.cut(t, after)
		recovered := openTest(t, filepath.Join(after, "x.db"), migrations(storetest.SQLite))
		if n := count(t, recovered); n < seen {
			t.Errorf("a view saw %d rows, %d survived the power cut", seen, n)
		}
		recovered.Close()
	}
	close(stop)
	wg.Wait()
}

// TestFailedSyncSurfaces: no caller of the group is told that it committed, nobody commits afterwards, and what was acknowledged
// before can still be read.
func TestFailedSyncSurfaces(t *testing.T) {
	d := watch(t)
	db := openTest(t, filepath.Join(d.dir, "x.db"), migrations(storetest.SQLite), withShim)
	put(t, db, "before")
	d.mu.Lock()
	d.fail = true
	d.mu.Unlock()
	insert := func(id string) error {
		return db.Commit(context.Background(), func(tx store.Tx) error {
			_, err := tx.Exec(`INSERT INTO item (id, n) VALUES ($1, 1)`, id)
			return err
		})
	}
	errs := make([]error, 10)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = insert(fmt.Sprint(i)) })
	}
	wg.Wait()
	for i, err := range errs {
		if !errors.Is(err, ErrBroken) {
			t.Errorf("caller %d of a group whose sync failed was answered with %v", i, err)
		}
	}
	d.mu.Lock()
	d.fail = false
	d.mu.Unlock()
	if err := insert("later"); !errors.Is(err, ErrBroken) {
		t.Errorf("a commit after a failed sync was answered with %v", err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows are visible after a failed sync", n)
	}
	after := t.TempDir()
	d.cut(t, after)
	if n := count(t, openTest(t, filepath.Join(after, "x.db"), migrations(storetest.SQLite))); n != 1 {
		t.Errorf("%d rows survived", n)
	}
}
