// @ts-check
/** Props that several data store actions share. This module is not a component. */

export const dataStore = { type: "data_store", label: "Data store", description: "The store." };

export const key = { type: "string", label: "Key", description: "The record's key." };

export const ttl = {
  type: "integer",
  label: "Time to live",
  description: "Seconds until the record expires. If empty, the record never expires.",
  optional: true,
};

/** Props of actions that create a missing record. */
export const createIfMissingProps = {
  addRecordIfNotFound: {
    type: "string",
    label: "Create the record if it does not exist",
    description: "Yes or No.",
    options: ["No", "Yes"],
    optional: true,
  },
  value: {
    type: "any",
    label: "Value",
    description: "The value for a missing key. JSON text is stored as the value that it encodes.",
    optional: true,
  },
  ttl,
};
