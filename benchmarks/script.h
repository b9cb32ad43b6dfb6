/*
 * What load.c and appends.c read first: a script, little-endian. A number is uint32, a text {uint32 size, bytes}. They
 * define PROGRAM, their name in errors, before they include this.
 */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *bytes;
    uint32_t size;
} Text;

static char *cursor;

static void fail(const char *what) {
    fprintf(stderr, PROGRAM ": %s (%s)\n", what, strerror(errno));
    exit(1);
}

static void *grown(void *memory, size_t size) {
    memory = realloc(memory, size);
    if (memory == NULL) fail("memory");
    return memory;
}

static uint8_t take_byte(void) { return (uint8_t)*cursor++; }

static uint32_t take_number(void) {
    uint32_t number;
    memcpy(&number, cursor, sizeof number);
    cursor += sizeof number;
    return number;
}

static Text take_text(void) {
    Text text;
    text.size = take_number();
    text.bytes = cursor;
    cursor += text.size;
    return text;
}

static void open_script(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail("script");
    size_t size = ftell(file);
    rewind(file);
    cursor = grown(NULL, size);
    if (fread(cursor, 1, size, file) != size) fail("script");
    fclose(file);
}
