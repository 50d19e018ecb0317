// What this tab remembers, until it is closed.

/** Something remembered, or what there is instead. */
export function recall(name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(`kedge.${name}`)) ?? otherwise;
  } catch (error) {
    if (error instanceof DOMException || error instanceof SyntaxError) return otherwise; // storage is switched off
    throw error;
  }
}

/** Remember it, where the browser lets anybody remember anything. */
export function keep(name, value) {
  try {
    sessionStorage.setItem(`kedge.${name}`, JSON.stringify(value));
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
}

/** A field whose text survives a reload. */
export function keepField(field, name) {
  field.value = recall(name, field.value);
  field.addEventListener("input", () => keep(name, field.value));
}

/** Set such a field. */
export function setField(field, value) {
  field.value = value;
  field.dispatchEvent(new Event("input"));
}
