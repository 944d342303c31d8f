/* libdynomite: a crash-safe store in one file, for C. SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Made by cbindgen from ffi/src: change the comments there, not here.
 *
 * A store holds named trees; a tree maps keys (0 to 4096 bytes) to values (up to 256 MiB).
 *
 * - Every call that can fail returns a dynomite_status; numbers never change their meaning. After
 *   any other than OK and NOT_FOUND, dynomite_last_error() has a sentence that says what to do.
 * - Handles may be used by many threads at once. Each has its close, which must be its last use;
 *   closing NULL does nothing.
 * - Out-parameters come last and are NULL after a call that did not return OK.
 * - A put or delete that returned OK survives a power cut.
 * - Bytes are a pointer and a length; NULL is fine where the length is 0.
 *
 * To build: `cargo build --release -p dynomite-ffi` leaves libdynomite.so and libdynomite.a in
 * target/release. From the root of the sources, a program is compiled, linked and run by
 *
 *   cc prog.c -I include -L target/release -ldynomite -lpthread -ldl -lm -o prog
 *   LD_LIBRARY_PATH=target/release ./prog
 *
 * Without LD_LIBRARY_PATH if the library's place is written into the program,
 * -Wl,-rpath,"$PWD/target/release", or if it is linked whole: -l:libdynomite.a for -ldynomite.
 *
 * Not here yet: options, ranges, snapshots, batches, streams, diff.
 */

#ifndef DYNOMITE_H
#define DYNOMITE_H

#include <stddef.h>
#include <stdint.h>

/**
 * What became of a call. Numbers are never changed nor used again; new ones are added behind.
 */
enum dynomite_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It happened.
   */
  DYNOMITE_STATUS_OK = 0,
  /**
   * There is no such key. Nothing failed.
   */
  DYNOMITE_STATUS_NOT_FOUND = 1,
  /**
   * A pointer is NULL that must not be, or a length is impossible.
   */
  DYNOMITE_STATUS_INVALID_ARGUMENT = 2,
  /**
   * The system refused a read or write of the store's file.
   */
  DYNOMITE_STATUS_IO = 3,
  /**
   * Bytes on disk are not what they must be.
   */
  DYNOMITE_STATUS_CORRUPT = 4,
  /**
   * The log holds acknowledged commits that cannot be read any more.
   */
  DYNOMITE_STATUS_ACKNOWLEDGED_LOSS = 5,
  /**
   * The file is not a Dynomite store.
   */
  DYNOMITE_STATUS_NOT_A_STORE = 6,
  /**
   * The store has a version of the format that this library does not read.
   */
  DYNOMITE_STATUS_FORMAT_VERSION = 7,
  /**
   * The newer superblock is gone, and the older one is not safe to open.
   */
  DYNOMITE_STATUS_SUPERBLOCK_LOST = 8,
  /**
   * The store is open already, in this process or another.
   */
  DYNOMITE_STATUS_LOCKED = 9,
  /**
   * There is already a file where a store should be created.
   */
  DYNOMITE_STATUS_EXISTS = 10,
  /**
   * There is no tree of this name.
   */
  DYNOMITE_STATUS_NO_SUCH_TREE = 11,
  /**
   * A tree of this name exists.
   */
  DYNOMITE_STATUS_TREE_EXISTS = 12,
  /**
   * A key, value or name is over its limit.
   */
  DYNOMITE_STATUS_TOO_LARGE = 13,
  /**
   * A batch is over what the store's log takes.
   */
  DYNOMITE_STATUS_BATCH_TOO_LARGE = 14,
  /**
   * The disk is full. Nothing was written.
   */
  DYNOMITE_STATUS_DISK_FULL = 15,
  /**
   * The store is as large as its format allows.
   */
  DYNOMITE_STATUS_STORE_FULL = 16,
  /**
   * A write failed before; the store takes no more until it is opened anew.
   */
  DYNOMITE_STATUS_POISONED = 17,
  /**
   * The store was opened for reading only.
   */
  DYNOMITE_STATUS_READ_ONLY = 18,
  /**
   * The store was closed.
   */
  DYNOMITE_STATUS_CLOSED = 19,
  /**
   * The snapshot was held for too long.
   */
  DYNOMITE_STATUS_SNAPSHOT_EXPIRED = 20,
  /**
   * The entry is not as the condition says.
   */
  DYNOMITE_STATUS_CONDITION_FAILED = 21,
  /**
   * The options do not fit each other or the machine.
   */
  DYNOMITE_STATUS_BAD_OPTION = 22,
  /**
   * A defect of this library, caught. The store's file is as a crash would leave it.
   */
  DYNOMITE_STATUS_PANIC = 23,
  /**
   * An error that has no number yet.
   */
  DYNOMITE_STATUS_UNKNOWN = 24,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum dynomite_status dynomite_status;
#else
typedef int32_t dynomite_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A store, open for reading and writing.
 */
typedef struct dynomite_store dynomite_store;

/**
 * A tree of an open store.
 */
typedef struct dynomite_tree dynomite_tree;

/**
 * A value that was read: a copy, which nothing changes.
 */
typedef struct dynomite_value dynomite_value;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A few words for a status, never NULL, never to be freed. Any number is fine.
 */
const char *dynomite_status_text(int32_t status);

/**
 * What the last failed call of this thread has to say: a sentence, never NULL. It stays until the
 * next failed call of this thread; do not free it.
 */
const char *dynomite_last_error(void);

/**
 * The library's version, such as "0.1.0". Never to be freed.
 */
const char *dynomite_version(void);

/**
 * Makes a new store in a new file and opens it. A crash before this returns leaves no file of
 * this name, or a whole and empty store, which `dynomite_open` opens. Its log takes 64 MiB of the
 * disk at once. Its fingerprints are made with the documented public key, so that any two stores
 * compare; who can choose what is written can then make two stores that seem equal.
 *
 * # Safety
 * `path` is a string; `out` points to a pointer.
 */
dynomite_status dynomite_create(const char *path, dynomite_store **out);

/**
 * Opens a store for reading and writing. What a crash left is recovered first.
 *
 * # Safety
 * `path` is a string; `out` points to a pointer.
 */
dynomite_status dynomite_open(const char *path, dynomite_store **out);

/**
 * Closes a store, so that its next opening has nothing to recover. The handle is gone whatever
 * this returns; what was acknowledged is safe in any case. Its trees are to be closed too, before
 * or after: reads and writes through them answer `CLOSED` from now on. Values that were read stay
 * good. The file stays locked, and its next opening answers `LOCKED`, until the last tree is closed.
 *
 * # Safety
 * `store` is NULL or a handle that no other call uses now or later.
 */
dynomite_status dynomite_store_close(dynomite_store *store);

/**
 * The tree of a name (0 to 255 bytes), created if it is not there.
 *
 * # Safety
 * `store` is open; `name` has `name_length` bytes; `out` points to a pointer.
 */
dynomite_status dynomite_tree_open(const dynomite_store *store,
                                   const uint8_t *name,
                                   size_t name_length,
                                   dynomite_tree **out);

/**
 * Gives a tree's handle back.
 *
 * # Safety
 * `tree` is NULL or a handle that no other call uses now or later.
 */
void dynomite_tree_close(dynomite_tree *tree);

/**
 * Sets the value of a key. When it returns OK, the value survives a power cut.
 *
 * # Safety
 * `tree` is open; `key` has `key_length` bytes and `value` has `value_length`.
 */
dynomite_status dynomite_put(const dynomite_tree *tree,
                             const uint8_t *key,
                             size_t key_length,
                             const uint8_t *value,
                             size_t value_length);

/**
 * Reads the value of a key, verified; `NOT_FOUND` if there is none.
 *
 * # Safety
 * `tree` is open; `key` has `key_length` bytes; `out` points to a pointer.
 */
dynomite_status dynomite_get(const dynomite_tree *tree,
                             const uint8_t *key,
                             size_t key_length,
                             dynomite_value **out);

/**
 * Removes a key. One that is not there is no error. When it returns OK, the removal survives a
 * power cut.
 *
 * # Safety
 * `tree` is open; `key` has `key_length` bytes.
 */
dynomite_status dynomite_delete(const dynomite_tree *tree, const uint8_t *key, size_t key_length);

/**
 * The bytes of a value, until it is closed. Not NULL, even for an empty value, unless `value` is.
 *
 * # Safety
 * `value` is NULL or open.
 */
const uint8_t *dynomite_value_data(const dynomite_value *value);

/**
 * How many bytes a value has; 0 if `value` is NULL.
 *
 * # Safety
 * `value` is NULL or open.
 */
size_t dynomite_value_length(const dynomite_value *value);

/**
 * Gives a value back.
 *
 * # Safety
 * `value` is NULL or a handle that no other call uses now or later.
 */
void dynomite_value_close(dynomite_value *value);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DYNOMITE_H */
