/* The first program of a C user: makes a store, writes, reads, closes, opens it again.
 * Usage: smoke PATH, where no file must be. */
#include "dynomite.h"

#include <stdio.h>
#include <string.h>

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #what,                      \
                    dynomite_last_error());                                                        \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static const uint8_t *bytes(const char *text) { return (const uint8_t *)text; }

int main(int count, char **arguments) {
    static uint8_t large[200000];
    dynomite_store *store = NULL, *second = NULL;
    dynomite_tree *tree = NULL;
    dynomite_value *value = NULL;

    CHECK(count == 2);
    CHECK(strlen(dynomite_version()) > 0);
    memset(large, 'x', sizeof large);

    CHECK(dynomite_create(arguments[1], &store) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_create(arguments[1], &second) == DYNOMITE_STATUS_EXISTS);
    CHECK(second == NULL);
    CHECK(strlen(dynomite_last_error()) > 0);
    CHECK(dynomite_tree_open(store, bytes("images"), 6, &tree) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_put(tree, bytes("key"), 3, bytes("value"), 5) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_put(tree, bytes("empty"), 5, NULL, 0) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_put(tree, bytes("large"), 5, large, sizeof large) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_put(tree, bytes("gone"), 4, bytes("soon"), 4) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_delete(tree, bytes("gone"), 4) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_put(tree, large, 5000, NULL, 0) == DYNOMITE_STATUS_TOO_LARGE);
    CHECK(dynomite_put(tree, NULL, 1, NULL, 0) == DYNOMITE_STATUS_INVALID_ARGUMENT);
    CHECK(dynomite_get(NULL, bytes("key"), 3, &value) == DYNOMITE_STATUS_INVALID_ARGUMENT);
    CHECK(dynomite_store_close(store) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_put(tree, bytes("late"), 4, NULL, 0) == DYNOMITE_STATUS_CLOSED);
    CHECK(dynomite_delete(tree, bytes("key"), 3) == DYNOMITE_STATUS_CLOSED);
    CHECK(dynomite_get(tree, bytes("key"), 3, &value) == DYNOMITE_STATUS_CLOSED);
    CHECK(value == NULL);
    CHECK(dynomite_open(arguments[1], &store) == DYNOMITE_STATUS_LOCKED);
    CHECK(strstr(dynomite_last_error(), "this process") != NULL);
    dynomite_tree_close(tree);

    CHECK(dynomite_open(arguments[1], &store) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_tree_open(store, bytes("images"), 6, &tree) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_get(tree, bytes("key"), 3, &value) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_value_length(value) == 5);
    CHECK(memcmp(dynomite_value_data(value), "value", 5) == 0);
    dynomite_value_close(value);
    CHECK(dynomite_get(tree, bytes("empty"), 5, &value) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_value_length(value) == 0);
    CHECK(dynomite_value_data(value) != NULL);
    dynomite_value_close(value);
    CHECK(dynomite_get(tree, bytes("large"), 5, &value) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_value_length(value) == sizeof large);
    CHECK(memcmp(dynomite_value_data(value), large, sizeof large) == 0);
    dynomite_value_close(value);
    CHECK(dynomite_get(tree, bytes("gone"), 4, &value) == DYNOMITE_STATUS_NOT_FOUND);
    CHECK(value == NULL);
    dynomite_tree_close(tree);
    CHECK(dynomite_store_close(store) == DYNOMITE_STATUS_OK);

    dynomite_value_close(NULL);
    dynomite_tree_close(NULL);
    CHECK(dynomite_store_close(NULL) == DYNOMITE_STATUS_OK);
    CHECK(dynomite_open("/nonexistent/store", &store) == DYNOMITE_STATUS_IO);
    CHECK(strcmp(dynomite_status_text(DYNOMITE_STATUS_DISK_FULL), "disk full") == 0);
    CHECK(strlen(dynomite_status_text(12345)) > 0);
    return 0;
}
