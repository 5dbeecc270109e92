// @ts-check
/** Props that several actions on data stores have. Nothing here is a component. */

export const dataStore = { type: "data_store", label: "Data store", description: "The store." };

export const key = { type: "string", label: "Key", description: "The record's key." };

export const ttl = {
  type: "integer",
  label: "Time to live",
  description: "Seconds until the record expires; none for never.",
  optional: true,
};

/** Of what stores a record where there is none. */
export const createIfMissingProps = {
  addRecordIfNotFound: {
    type: "string",
    label: "Create the record if it is not there",
    description: "Yes or No.",
    options: ["No", "Yes"],
    optional: true,
  },
  value: {
    type: "any",
    label: "Value",
    description: "What to store where the key is not there; text that is JSON is stored as what it says.",
    optional: true,
  },
  ttl,
};
